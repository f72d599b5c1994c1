"""What a net can see, and what it has learned."""
