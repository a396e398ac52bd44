"""The one exception that means "you can mend this": its text is all that a user sees of it."""


class UserError(Exception):
    """What was wrong, where (file, key, record), and what to do about it.

    A stage that meets one prints its text and exits with status 1.
    """
