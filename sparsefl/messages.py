"""Errors as the user reads them."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return an error's message on one line; its type where it has none.

    Args:
        error: What was raised.
        most: Characters that are quoted; ``None`` is all.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if most is None or len(text) <= most else f"{text[:most]}..."
