"""What a net is and has learned, seen from outside: receptive fields and class templates."""
