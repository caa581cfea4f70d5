"""The errors for input that the user can correct."""


class UserError(Exception):
    """An error in a file, a flag or a value that the user gave.

    The message is one line that names the file or field and the remedy. The scripts print it and exit with code 2.
    """

    def __str__(self):
        """The message on one line. It may quote a damaged file, so characters that cannot be printed, and line ends, are escaped;
        the middle of a very long message is removed."""
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())
        return text if len(text) < 4000 else f"{text[:3000]} ... {text[-500:]}"


class MissingData(UserError):
    """The collection lacks data that a task needs. Other tasks may still work."""
