"""What a route finds in a single sample, which protocol that is of, and what might be looked for in it."""
