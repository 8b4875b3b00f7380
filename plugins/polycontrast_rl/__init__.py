"""Contrastive learning for reinforcement learning and robot policies: the manifest of the plugin."""

from polycontrast.plugins import Plugin

PLUGIN = Plugin(domain="rl", api=(1, 0), extra="rl")
