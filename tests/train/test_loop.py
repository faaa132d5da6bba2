import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest

from edgeseg.bundle import find, read
from edgeseg.errors import BundleError, InputError

torch = pytest.importorskip("torch")

from edgeseg.train import loop as training  # noqa: E402
from edgeseg.train.data import Augmentation, Loader  # noqa: E402
from edgeseg.train.initial import read_start  # noqa: E402
from edgeseg.train.loop import (  # noqa: E402
    Run,
    TrainConfig,
    carry_out,
    learning_rate,
    parameter_groups,
    train,
)
from edgeseg.train.rounding import Int8Rounding  # noqa: E402

HOUR = 3600


@pytest.fixture
def config(data, tmp_path):
    return TrainConfig(
        data,
        tmp_path / "run",
        hours=1.5 / HOUR,
        size_hw=(144, 192),
        batch=2,
        val_images=2,
        guided_from=0.5,
    )


def test_training_writes_its_curve_and_goes_on_where_it_stopped(config):
    first = train(config)
    seen = first["images_seen"]
    assert seen > 0 and 0.0 <= first["raw_AP"] <= 1.0
    seconds = torch.load(config.out / "last.pt", weights_only=True)["position"][2]
    second = train(replace(config, hours=(seconds + 1) / HOUR))
    record = json.loads((config.out / "curve.json").read_text())
    assert second["images_seen"] > seen
    assert [row["images_seen"] for row in record["curve"]] == [seen, second["images_seen"]]
    assert record["train_images"] == 6 and record["device"]
    assert not list(config.out.glob("*.part"))


def test_the_loss_falls_on_one_batch(config):
    torch.manual_seed(0)
    run = Run(replace(config, learning_rate=2e-3))
    run.network.train()
    loader = Loader(run.train_data, Augmentation((144, 192), (1.0, 1.0), colour=0.0), 2, seed=0)
    batch = next(loader)
    loader.close()
    losses = []
    for _ in range(25):
        run.step += 20  # past the warm-up
        losses.append(run.train_step(*batch, 0.0))
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


def test_a_run_of_another_network_is_refused(config, data):
    train(config)
    path = config.out / "last.pt"
    state = torch.load(path, weights_only=True)
    state["network"]["num_queries"] = 10
    torch.save(state, path)
    with pytest.raises(BundleError, match="another network; wanted nano; name another --out"):
        train(config)


def test_a_damaged_state_is_refused(config):
    config.out.mkdir()
    (config.out / "last.pt").write_bytes(b"half of a file")
    with pytest.raises(BundleError, match=r"last.pt which is damaged.*or delete .*run to begin an"):
        train(config)


def test_a_run_of_another_size_or_start_is_refused(config):
    train(config)
    text = "of input size 192x144; wanted input size 208x144; name another --out .*or delete"
    with pytest.raises(BundleError, match=text):
        train(replace(config, size_hw=(144, 208)))
    start = read_start("fastinst-nano")
    text = "began with random weights; wanted a training that began with fastinst-nano"
    with pytest.raises(BundleError, match=text):
        carry_out(Run(config, start=start))


def test_two_starts_of_one_name_are_told_apart(config):
    start = read_start("fastinst-nano")
    carry_out(Run(config, start=start))
    other = replace(start, state={key: value * 2 for key, value in start.state.items()})
    with pytest.raises(BundleError, match=r"wanted a training .* fastinst-nano as it is now; name"):
        carry_out(Run(config, start=other))


def test_with_other_labels_training_begins_anew_from_these_weights(config, data):
    train(config)
    path = data / "train" / "annotations.json"
    table = json.loads(path.read_text())
    del table["annotations"][0]
    path.write_text(json.dumps(table))
    again, lines = Run(config), []
    assert again.resume()
    state = torch.load(config.out / "last.pt", weights_only=True)
    assert (again.step, again.seconds, again.best, again.curve) == (0, 0.0, -1.0, [])
    for key, value in again.network.state_dict().items():
        torch.testing.assert_close(value.cpu(), state["model"][key].cpu())
    last = carry_out(Run(config), lines.append)
    assert lines == ["the data changed since: training begins anew from these weights"]
    assert json_curve(config) == [last]


def test_a_state_of_before_fingerprints_is_gone_on_from(config):
    train(config)
    path = config.out / "last.pt"
    state = torch.load(path, weights_only=True)
    del state["fingerprint"], state["patience"]
    torch.save(state, path)
    again = Run(config)
    assert not again.resume()
    assert again.step > 0 and again.curve == state["curve"]


def json_curve(config):
    return json.loads((config.out / "curve.json").read_text())["curve"]


def test_a_repeated_call_says_that_no_time_is_left_and_looks_no_second_time(config):
    first, lines = train(config), []
    assert carry_out(Run(config), lines.append) == first
    assert len(json_curve(config)) == 1
    assert len(lines) == 1 and lines[0].startswith("no time is left, 0.")
    assert "of 0.025 minutes are used: to train on, give more, e.g. --hours 0.0" in lines[0]
    more = replace(config, hours=3 * config.hours)
    lines.clear()
    carry_out(Run(more), lines.append)
    assert lines[0].startswith("goes on at 0.0 of 0.075 minutes")


def test_after_early_stopping_patience_counts_from_the_resume_on(config):
    run = Run(replace(config, hours=1.0, patience=2))
    config.out.mkdir()
    run.curve = [{"minutes": k, "raw_AP": 0.5, "ema_AP": 0.1} for k in range(1, 5)]
    assert run.shortened(HOUR) == 225.0
    run.save()
    for hours, budget in ((1.0, 225.0), (2.0, 2 * HOUR)):
        again = Run(replace(config, hours=hours, patience=2))
        again.resume()
        assert again.shortened(hours * HOUR) == budget


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_end_in_the_last_look_loses_nothing(config, monkeypatch, capsys, error):
    def ends(*_):
        raise error

    monkeypatch.setattr(training, "validate", ends)
    with pytest.raises(error):
        train(config)
    state = torch.load(config.out / "last.pt", weights_only=True)
    assert state["position"][0] > 0 and state["curve"] == []
    assert ("stopped and saved in" in capsys.readouterr().out) is (error is KeyboardInterrupt)


def test_what_ends_a_step_is_saved_unless_the_weights_are_no_numbers(config, monkeypatch):
    def ends(self, *_):
        with torch.no_grad():
            next(self.network.parameters()).fill_(spoiled)
        raise RuntimeError

    monkeypatch.setattr(Run, "train_step", ends)
    for value, there in ((math.nan, False), (0.5, True)):
        spoiled = value
        with pytest.raises(RuntimeError):
            train(config)
        assert (config.out / "last.pt").is_file() is there


def test_learning_rate_warms_up_stays_and_falls():
    assert learning_rate(0.0, 0, 1.0) < 0.01
    assert learning_rate(0.2, 500, 1.0) == 1.0
    assert learning_rate(0.6, 500, 1.0) < 0.8
    assert learning_rate(1.0, 500, 1.0) == pytest.approx(0.01)


def test_weight_decay_spares_norms_biases_and_embeddings(config):
    network = Run(config).network
    decayed, spared = parameter_groups(network, 0.05)
    names = {id(p): n for n, p in network.named_parameters()}
    spared_names = {names[id(p)] for p in spared["params"]}
    assert decayed["weight_decay"] == 0.05 and spared["weight_decay"] == 0.0
    assert "sem_seg_head.predictor.empty_query_features.weight" in spared_names
    assert "sem_seg_head.predictor.meta_pos_embed" not in spared_names
    assert all("bias" not in names[id(p)] for p in decayed["params"])


def test_ctrl_c_saves_and_the_next_call_goes_on(config, monkeypatch):
    real = Run.train_step

    def interrupted(self, images, targets, progress):
        if self.step == 3:
            raise KeyboardInterrupt
        return real(self, images, targets, progress)

    monkeypatch.setattr(Run, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, hours=1.0))
    monkeypatch.undo()
    again = Run(config)
    again.resume()
    assert (again.step, again.images) == (3, 6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"variant": "nanoo"}, "got variant 'nanoo'; wanted one of .*did you mean 'nano'"),
        ({"hours": 0.0}, "got 0.0 hours and batches of 2; wanted both above 0"),
        ({"batch": 0}, "batches of 0; wanted both above 0"),
        ({"repaint": 1.5}, "got a repaint share of 1.5 .*wanted both from 0 to 1"),
        ({"learning_rate": 0.0}, "a learning rate of 0.0; wanted both from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(config, change, text):
    with pytest.raises(InputError, match=text):
        replace(config, **change)


def test_knet_starts_from_the_backbone_of_fastinst_and_learns(config):
    from edgeseg.export.network import restore

    torch.manual_seed(0)
    config.out.mkdir()
    settings = {"variant": "knet-nano", "learning_rate": 1e-3}
    run = Run(replace(config, **settings), start=read_start("fastinst-nano"))
    folder = find("fastinst-nano")
    trained = restore(folder, read(folder)).backbone.state_dict()
    for key, value in run.network.backbone.state_dict().items():
        torch.testing.assert_close(value.cpu(), trained[key])
    run.network.train()
    loader = Loader(run.train_data, Augmentation((96, 128), (1.0, 1.0), colour=0.0), 2, seed=0)
    batch = next(loader)
    loader.close()
    losses = []
    for _ in range(20):
        run.step += 20  # past the warm-up
        losses.append(run.train_step(*batch, 0.0))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    run.look(1)
    state = torch.load(run.config.out / "last.pt", weights_only=True)
    assert state["family"] == "knet"


def test_a_network_with_nothing_in_common_is_refused(config):
    with pytest.raises(BundleError, match="got fastinst-nano, of which no tensor fits; wanted a"):
        Run(replace(config, variant="r50", size_hw=(160, 192)), start=read_start("fastinst-nano"))


def test_random_layers_that_stay_random_are_refused(config):
    with pytest.raises(InputError, match=r"got r50 with random weights in backbone.conv1.weight"):
        Run(replace(config, variant="r50", size_hw=(160, 192)))


def test_with_qat_steps_and_looks_are_rounded(config, monkeypatch):
    config.out.mkdir()
    run = Run(replace(config, qat=True), start=read_start("fastinst-nano"))
    loader = Loader(run.train_data, Augmentation((144, 192), (1.0, 1.0), colour=0.0), 2, seed=0)
    batch = next(loader)
    loader.close()
    counts = []
    for kind in (Int8Rounding, lambda exempt: nullcontext()):
        monkeypatch.setattr(training, "Int8Rounding", kind)
        torch.manual_seed(0)
        run.network.load_state_dict(run.average.state_dict())
        run.network.train()
        counts.append(run.train_step(*batch, 0.0))
    assert counts[0] != counts[1] and math.isfinite(counts[0])
    asked = []
    monkeypatch.setattr(
        training, "Int8Rounding", lambda exempt: asked.append(exempt) or nullcontext()
    )
    run.look(1)
    assert asked == [[], []]


def test_the_first_phase_is_in_proportion_to_the_second(config):
    assert replace(config, size_hw=(240, 320)).crop_hw == (144, 192)
    assert replace(config, size_hw=(480, 640)).crop_hw == (288, 384)
    assert replace(config, size_hw=(144, 192)).crop_hw == (144, 192), "not below that"


def test_a_size_that_the_network_can_not_have(config):
    with pytest.raises(InputError, match="got input size 330x250; wanted multiples of 16; try 336"):
        Run(replace(config, size_hw=(250, 330)))
