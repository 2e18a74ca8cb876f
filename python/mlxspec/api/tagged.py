"""Objects whose kind is their tag on the wire: the discriminator of unions in the document."""

from msgspec import Struct


class Tagged(Struct, frozen=True):
    """A subclass with a `tag` is written with it as its `type`, and has it here as well."""

    @property
    def type(self) -> str:
        """The tag."""
        tag = self.__struct_config__.tag
        assert isinstance(tag, str)
        return tag
