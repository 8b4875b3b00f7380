"""Contrastive learning on graphs: the manifest of the plugin."""

from polycontrast.plugins import Plugin

PLUGIN = Plugin(domain="graph", api=(1, 0), extra="graph")
