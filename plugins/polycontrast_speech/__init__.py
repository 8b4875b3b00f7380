"""Contrastive learning on speech and audio: the manifest of the plugin."""

from polycontrast.plugins import Plugin

PLUGIN = Plugin(domain="speech", api=(1, 0), extra="speech")
