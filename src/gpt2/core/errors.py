"""The error that a user can fix. Commands and stages print its text without a traceback."""


class UserError(Exception):
    """A problem with the input, the configuration or the machine.

    The text says what is wrong, where (file, key or record), and how to fix it. A stage prints it
    and exits with status 1.
    """
