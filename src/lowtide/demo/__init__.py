"""What ``lowtide demo`` trains and measures."""
