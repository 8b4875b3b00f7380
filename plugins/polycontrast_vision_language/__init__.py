"""Contrastive learning on images with text: the manifest of the plugin."""

from polycontrast.plugins import Plugin

PLUGIN = Plugin(domain="vision-language", api=(1, 0), extra="vision-language")
