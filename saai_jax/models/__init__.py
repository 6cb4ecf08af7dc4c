"""Networks, one file a system; all give an Output."""
