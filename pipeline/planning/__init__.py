"""What stage one will do, decided without torch."""
