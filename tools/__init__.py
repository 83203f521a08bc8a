"""Programs for operators; `tools.server` is what they share."""
