"""Names and shapes of LTX-2.3: which files there are, and which layout a header is written in."""
