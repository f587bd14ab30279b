"""The models of the package, by the names that recipes call them."""

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["transformer-xl", "compressive", "lstm", "gla", "mlstm", "rmt"]

#: The factory of each kind beside Transformer-XL. They are the package's own code, so they run
#: wherever they are named.
FACTORIES: dict[str, str] = {
    "compressive": "trainer.model.families.compressive:build",
    "lstm": "trainer.model.families.lstm:build",
    "gla": "trainer.model.families.gla:build",
    "mlstm": "trainer.model.families.mlstm:build",
    "rmt": "trainer.model.families.rmt:build",
}
