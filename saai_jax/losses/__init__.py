"""Pure losses, a file for what they pull on; systems sum them."""
