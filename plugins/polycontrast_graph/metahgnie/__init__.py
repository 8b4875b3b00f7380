"""MetaHGNIE: node importance from a hypergraph, structure and text in contrast (arXiv 2512.12477)."""
