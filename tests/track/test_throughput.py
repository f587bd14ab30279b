"""One definition of speed: tokens over all ranks, the same per device, and its share of a peak."""

from trainer.track.throughput import rates, tokens_per_s


def test_a_device_has_its_share_of_the_speed() -> None:
    told = rates(1200, 4.0, n_devices=3)
    assert told["throughput/tokens_per_s"] == tokens_per_s(1200, 4.0) == 300.0
    assert told["throughput/tokens_per_s_per_device"] == 100.0


def test_a_device_has_its_share_of_the_peak_where_that_is_known() -> None:
    assert rates(1200, 4.0, n_devices=3, peak_tokens_per_s=400.0)["throughput/mfu"] == 0.25
    assert "throughput/mfu" not in rates(1200, 4.0, n_devices=3)


def test_no_time_at_all_is_no_error() -> None:
    assert rates(1, 0.0, n_devices=1)["throughput/tokens_per_s"] > 0
