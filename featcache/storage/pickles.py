"""Refusals of pickled files: what one holds beside tensors, in words that never say how to read it all the same."""

import re


def refusal(error: BaseException) -> str:
    """Why a file was not unpickled, from torch's error, whose own advice would run whatever the file holds.

    Example:
        >>> refusal(ValueError("Weights only load failed ... Unsupported global: GLOBAL posix.system was not"))
        'it holds posix.system beside tensors, which could run anything; it was not unpickled'
        >>> refusal(ValueError("not a ZIP archive"))
        'not a ZIP archive'
    """
    text = str(error)
    if "weights only" in text.lower() or "weights_only" in text:
        match = re.search(r"GLOBAL ([\w.]+)", text)
        what = match[1] if match else "more"
        return f"it holds {what} beside tensors, which could run anything; it was not unpickled"
    return text.strip().partition("\n")[0] or type(error).__name__
