"""TACO on DrQ-v2."""
