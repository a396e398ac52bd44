"""How a file of any format becomes rows."""
