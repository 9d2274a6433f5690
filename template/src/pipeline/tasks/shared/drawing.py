"""What pictures of every kind need."""


def shortened(name: object, most: int = 24) -> str:
    """A long name with its middle left out: names often differ at both ends."""
    text = str(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
