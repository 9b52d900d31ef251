"""Figures of the report page: SVG with text as text, in colours that the page sets."""
