"""Damaged checkpoints loaded whole: one line that says what is wrong, as when they are streamed."""

import pytest
from damage import DAMAGE
from streaming.helpers import save

from prunerzero import load_model
from prunerzero.errors import InputError
from prunerzero.models.names import check_model_name

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_checkpoints(case, tmp_path):
    damage, shard, message = DAMAGE[case]
    source = save(tmp_path / "source", shard=shard)
    damage(source)
    with pytest.raises(InputError, match=message) as caught:
        load_model(source, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_beside_its_base_model_is_found_without_loading(tmp_path):
    source = save(tmp_path / "source")
    (source / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge it into its base model"):
        check_model_name(source)
