"""How an encoder's feature map becomes one vector per image."""


class EncoderPooling:
    """The encoder's own, as it was trained."""

    def __init__(self, num_features: int) -> None:
        pass
