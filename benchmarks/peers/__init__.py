"""Other servers for comparison, each written as its documentation recommends."""
