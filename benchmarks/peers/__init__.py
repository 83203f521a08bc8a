"""What one would use instead, each written as its own documentation advises."""
