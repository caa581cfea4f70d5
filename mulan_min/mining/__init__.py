"""Text that people write under music, cleaned by rules and by a learned filter."""
