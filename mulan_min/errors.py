"""The error for faults in what the user gave."""


class UserError(Exception):
    """A fault in a file, a flag or a value of the user's.

    The message is one line that names the file or field and the remedy. The scripts print it and exit with code 2.
    """

    def __str__(self):
        """The message on one line. It may quote a damaged file, so characters that cannot be printed (line ends too) are
        escaped, and the middle of a very long message is left out."""
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())
        return text if len(text) < 4000 else f"{text[:3000]} ... {text[-500:]}"


class MissingData(UserError):
    """The collection does not have what a task needs; other tasks may still work."""
