"""Hot operations behind one function each; the torch form is the definition."""
