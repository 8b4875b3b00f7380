"""What a person looks at after a run: one HTML page, one table on the console, one model card.

Everything is read from the run directory alone; torch is not needed. The page is a single file that loads
nothing: its style is inside, its curves are inline SVG, and a content security policy forbids the rest.
"""

from polycontrast.report.card import model_card
from polycontrast.report.compare import side_by_side
from polycontrast.report.console import print_table
from polycontrast.report.page import write
from polycontrast.report.rows import Row, table

__all__ = ["Row", "model_card", "print_table", "side_by_side", "table", "write"]
