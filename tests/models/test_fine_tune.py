"""Tuning by hand, what it may change, and where it starts from."""

import pytest
import torch
import torch.nn.functional as F
from test_networks import episodes

import fewseg
from fewseg.errors import FewsegError
from fewseg.models.fine_tune import FineTuneNetwork, PaperFineTuneNetwork, Tuning
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)


def network(*tuning, freeze=False):
    torch.manual_seed(0)
    return FineTuneNetwork(Encoder("tiny", trainable=not freeze), 8, tuning=Tuning(*tuning)).eval()


def episode(n=1, shots=2, size=24):
    random = torch.Generator().manual_seed(1)
    supports = torch.randint(0, 256, (n, shots, 3, size, size), generator=random, dtype=torch.uint8)
    queries = torch.randint(0, 256, (n, 3, size, size), generator=random, dtype=torch.uint8)
    return supports, (supports[:, :, 0] > 128).to(torch.uint8), queries


def answers(net, supports, annotations, queries):
    guidance = net.guide(net.encode_support(supports), annotations)
    return guidance, net.segment(net.encode_query(queries), guidance)


def test_one_step_of_sgd_is_the_gradient():
    net = network(1, 0.25)
    supports, annotations, _ = episode()
    annotations[0, 0, :5] = 255
    with torch.inference_mode():  # as under Lightning
        change = net.guide(net.encode_support(supports), annotations).change[0]
    logits = net.score(net.encode_query(supports[0]))
    loss = F.cross_entropy(logits, annotations[0].long(), ignore_index=255)
    gradients = torch.autograd.grad(loss, [p for n, p in net.named_parameters() if not n.startswith("encoder.")])
    torch.testing.assert_close(change, -0.25 * torch.cat([g.flatten() for g in gradients]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("tune", ["head", "all"])
def test_tuning_fits_the_support_and_leaves_the_network_alone(tune, optimizer):
    net = network(40, 0.1 if optimizer == "sgd" else 1e-2, tune, optimizer).train()  # train mode must not matter
    supports, annotations, _ = episode(shots=1)
    annotations[..., :12], annotations[..., 12:] = 1, 0
    supports[..., :12] //= 4  # the left half is dark
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(steps):
        net.prepare(net.tuning._replace(steps=steps))
        with torch.inference_mode():
            _, logits = answers(net, supports, annotations, supports[:, 0])
        return F.cross_entropy(logits, annotations[:, 0].long())

    assert net.training
    net.guide(net.encode_support(supports), annotations)
    if tune == "all":  # encoding happens inside, in eval mode
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.load_state_dict(before)
    net.eval()
    assert loss(40) < 0.97 * loss(0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_without_steps_it_is_the_class_blind_network():
    net = network(0)
    supports, annotations, queries = episode()
    guidance, logits = answers(net, supports, annotations, queries)
    assert not guidance.change.any()
    torch.testing.assert_close(logits, net.score(net.encode_query(queries)))


def test_what_is_tuned():
    def parts(net):
        return {name.split(".")[0] for name in net.tuned}

    assert parts(network()) == {"embedding", "head"}
    assert parts(network(20, 0.1, "all")) == {"encoder", "embedding", "head"}
    assert parts(network(20, 0.1, "all", freeze=True)) == {"embedding", "head"}
    assert [network().cacheable, network().early] == [True, False]
    whole = network(20, 0.1, "all")
    assert [whole.cacheable, whole.early] == [False, True]
    assert sum(whole.get_parameter(name).numel() for name in whole.tuned) == sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("tune", ["head", "all"])
def test_episodes_are_tuned_apart(tune):
    net = network(5, 0.05, tune)
    supports, annotations, queries = episode(n=2)
    annotations[1] = 1 - annotations[1]
    with torch.inference_mode():
        guidance, together = answers(net, supports, annotations, queries)
        apart = [answers(net, supports[i : i + 1], annotations[i : i + 1], queries[i : i + 1])[1] for i in range(2)]
        torch.testing.assert_close(together, torch.cat(apart), rtol=1e-3, atol=1e-3)
        once = net.segment(net.encode_query(queries[:1]), guidance)  # one query for both
        torch.testing.assert_close(once[:1], together[:1], rtol=1e-3, atol=1e-3)
    assert guidance.change.shape == (2, sum(net.get_parameter(name).numel() for name in net.tuned))


def test_unknown_pixels_do_not_count():
    net = network(3)
    supports, annotations, queries = episode(shots=2)
    annotations[:, 1] = 255
    one = answers(net, supports[:, :1], annotations[:, :1], queries)[1]
    torch.testing.assert_close(answers(net, supports, annotations, queries)[1], one)
    guidance, logits = answers(net, supports, torch.full_like(annotations, 255), queries)
    assert not guidance.change.any()
    assert (logits[:, 0] > logits[:, 1]).all()


def test_training_reads_no_support():
    """The losses of a batch are those of FgBg with the same parameters."""
    torch.manual_seed(0)
    blind = fewseg.create_model("FgBg", width=8).network
    net = network()
    net.load_state_dict(blind.state_dict())
    batch = episodes(2, 1)
    assert net.losses(batch)["cross_entropy"].item() == pytest.approx(blind.losses(batch)["cross_entropy"].item())


def test_it_starts_from_a_saved_class_blind_network(tmp_path):
    torch.manual_seed(3)
    trained = fewseg.create_model("FgBg", width=16)
    trained.image_size, trained.image_resize = 40, "square"
    folder = str(trained.save(tmp_path / "fgbg"))
    model = fewseg.create_model("FineTune", width=16, trained=folder)
    assert all(torch.equal(v, trained.network.state_dict()[k]) for k, v in model.network.state_dict().items())
    assert (model.image_size, model.image_resize) == (40, "square")
    again = fewseg.load_model(model.save(tmp_path / "tuned"))  # without the folder that it started from
    assert all(torch.equal(v, trained.network.state_dict()[k]) for k, v in again.network.state_dict().items())
    with pytest.raises(FewsegError, match="width: got 128, expected 16"):
        fewseg.create_model("FineTune", trained=folder)
    wide = str(fewseg.create_model("FgBg", width=16, kernel=3).save(tmp_path / "wide"))
    with pytest.raises(FewsegError, match="kernel: got 1, expected 3, as in"):
        fewseg.create_model("FineTune", width=16, trained=wide)
    fewseg.create_model("FineTune", width=16, kernel=3, trained=wide)
    with pytest.raises(FewsegError, match="trained: got a FineTune, expected a FgBg"):
        fewseg.create_model("FineTune", width=16, trained=str(tmp_path / "tuned"))
    with pytest.raises(FewsegError, match=r"trained: got .*nowhere"):
        fewseg.create_model("FineTune", trained=str(tmp_path / "nowhere"))


def test_settings_out_of_range_are_refused():
    with pytest.raises(FewsegError, match="steps: got -1"):
        network(-1)
    with pytest.raises(FewsegError, match="tune_lr: got 0"):
        network(1, 0.0)


def test_the_encoder_learns_with_its_own_rate():
    model = fewseg.create_model("FineTune", lr=1.0, encoder_lr_factor=0.5)
    encoder, rest = model.parameter_groups()
    assert [encoder["lr"], rest["lr"]] == [0.5, 1.0]
    assert len(encoder["params"]) == len(list(model.network.encoder.parameters()))


def test_the_paper_network_is_tuned_without_its_fixed_kernel():
    with torch.device("meta"):
        net = PaperFineTuneNetwork()
        assert net.tuned == ("head.weight", "head.bias")
        assert sum(p.numel() for p in net.parameters()) == 134_285_122
        assert "decoder.kernel" not in PaperFineTuneNetwork(tuning=Tuning(tune="all")).tuned
    assert (net.min_size, net.uses_support, net.cacheable) == (33, True, False)
