import torch

from fewseg.functional.optimisation import optimisation


def test_gradients_inside_and_modes_restored_after():
    with torch.inference_mode():
        features = torch.ones(3)
        with optimisation():
            weight = torch.zeros(3, requires_grad=True)
            (gradient,) = torch.autograd.grad(((weight - features.clone()) ** 2).sum(), weight)
        assert gradient.tolist() == [-2.0] * 3
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        with optimisation():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
