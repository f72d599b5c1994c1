"""Stack of pre-norm Transformer blocks of ViT, DeiT, MAE and the image Transformer.

Unrolled, each block is a submodule `blocks_0`, `blocks_1`, …. Scanned, one block `blocks` has
parameters with a leading axis of the depth: XLA compiles one block instead of all, but cannot
optimise across blocks. `stack_blocks` and `unstack_blocks` convert the parameters.
Rematerialisation saves memory: the backward pass recomputes the intermediates of a block.

Measured by benchmarks/scan_layers.py, the gradient of ViT-L/16 at batch 8 in float32 on CPU:
unrolled 4.1 s of compilation and 5.0 GiB of memory; scanned 2.6 s and 5.1 GiB; scanned and
rematerialised 0.5 GiB ("full"), 1.6 ("dots_no_batch") or 2.1 ("dots"). Unrolled, rematerialisation
saves no memory on CPU (5.6 GiB), because the CPU compiler removes it.
"""

from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv_jax.models import checks
from cv_jax.models.attention import Attention, check_implementation
from cv_jax.models.layers import Mlp, activation, drop_path, drop_path_rates

# Name → intermediates kept for the backward pass. "none": all that it needs; "full": the inputs of
# the blocks; "dots": also matrix products; "dots_no_batch": of these only products with weights, so
# no attention scores.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
# Of Transformers also "mlp": all intermediates, except of each MLP only its matrix products. The
# hidden activations, four times as wide as a token, are computed again from the first product;
# otherwise GELU alone keeps its result and two more arrays of this width.
POLICIES = (*REMAT_POLICIES, "mlp")


def apply_mlp(mlp: Mlp, x: jax.Array, train: bool, remat_policy: str) -> jax.Array:
    """Apply an MLP [..., D] → [..., D]; under "mlp" it keeps its matrix products only."""
    if remat_policy != "mlp":
        return mlp(x, train=train)
    lean = nn.remat(lambda mlp, x: mlp(x, train=train), policy=REMAT_POLICIES["dots"])
    return lean(mlp, x)


class LayerScale(nn.Module):
    """Learned factor per channel (Touvron et al., 2021, arXiv:2103.17239, section 2.1).

    Attributes:
      init: initial value of every factor.
      param_dtype: dtype of the parameter.
    """

    init: float
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.init)
        return x * self.param("gamma", init, x.shape[-1:], self.param_dtype).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Attributes:
      num_heads: attention heads; must divide the width.
      mlp_ratio: hidden width of the MLP over the token width.
      act: activation of the MLP, one of `layers.ACTIVATIONS`.
      qk_norm: see `Attention`.
      attention_scale: see `Attention`.
      layer_scale: initial value of a learned factor per channel on both branches; 0: no factor.
      norm_epsilon: constant under the root of both LayerNorms.
      dropout_rate: dropped share after attention and MLP layers.
      implementation: attention implementation, one of `attention.IMPLEMENTATIONS`.
      attention_weights: whether to return the attention weights.
      remat_policy: one of `POLICIES`; here only "mlp" has an effect, see `run_blocks`.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    act: str = "gelu"
    qk_norm: bool = False
    attention_scale: str = "sqrt"
    layer_scale: float = 0.0
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    implementation: str = "xla"
    attention_weights: bool = False
    remat_policy: str = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, drop_path_rate: float | jax.Array | None, train: bool):
        """Tokens [B, T, D] → `(tokens, (tokens, weights or None))`, the format of `nn.scan`.

        Args:
          x: the tokens.
          drop_path_rate: probability of dropping a branch for an example; `None` for 0.
          train: whether dropout and stochastic depth are active.
        """
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def branch(y, name):
            if self.layer_scale:
                y = LayerScale(self.layer_scale, self.param_dtype, name=name)(y)
            if train and drop_path_rate is not None:
                y = drop_path(self.make_rng("dropout"), y, drop_path_rate)
            return y

        # The fused kernel does not return weights.
        returns = self.implementation == "auto" and self.attention_weights
        y = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="norm1")(x)
        y, weights = Attention(
            self.num_heads,
            self.qk_norm,
            self.attention_scale,
            self.dropout_rate,
            "xla" if returns else self.implementation,
            **types,
            name="attn",
        )(y, train=train)
        x = x + branch(y, "ls1")
        y = nn.LayerNorm(epsilon=self.norm_epsilon, **types, name="norm2")(x)
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        mlp = Mlp(hidden_dim, self.act, self.dropout_rate, **types, name="mlp")
        y = apply_mlp(mlp, y, train, self.remat_policy)
        x = x + branch(y, "ls2")
        return x, (x, weights if self.attention_weights else None)


def check_blocks(
    *,
    width: int,
    depth: int,
    num_heads: int,
    drop_path_rate: float,
    act: str,
    remat_policy: str,
    implementation: str,
    attention_weights: bool,
) -> None:
    """Check the fields of a stack of blocks.

    Raises:
      ValueError: a field is invalid, or two fields exclude each other.
    """
    checks.positive("depth", [depth])
    checks.positive("width", [width])
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads {num_heads} does not divide width {width}")
    checks.rate("drop_path_rate", drop_path_rate)
    checks.one_of("remat_policy", remat_policy, POLICIES)
    activation(act)
    check_implementation(implementation, attention_weights)


def run_blocks(
    x: jax.Array,
    *,
    depth: int,
    train: bool,
    drop_path_rate: float = 0.0,
    scan: bool = False,
    remat_policy: str = "none",
    name: str = "blocks",
    **fields,
) -> tuple[jax.Array, OrderedDict]:
    """Apply a stack of blocks to tokens, inside a compact method of a module.

    Args:
      x: tokens [B, T, D].
      depth: number of blocks.
      train: whether dropout and stochastic depth are active.
      drop_path_rate: rate of the last block; grows linearly from 0 at the first block.
      scan: one scanned block instead of `depth` unrolled blocks. For given parameters the outputs
        are equal; random draws (initial values, dropout masks) differ.
      remat_policy: one of `POLICIES`.
      name: name of the submodules.
      **fields: fields of `Block`.

    Returns:
      `(tokens [B, T, D], features)`: `"<name>_<i>"` are the tokens after block i. With
      `attention_weights` also `"<name>_<i>/attention"` [B, heads, T, T], before the tokens.
    """
    block = Block
    if REMAT_POLICIES.get(remat_policy) is not None:
        block = nn.remat(
            Block,
            policy=REMAT_POLICIES[remat_policy],
            # Inside a scan, XLA cannot merge the recomputation with the forward pass.
            prevent_cse=not scan,
            static_argnums=(3,),
        )
    fields["remat_policy"] = remat_policy
    rates = drop_path_rates(drop_path_rate, depth) if train and drop_path_rate else [None] * depth
    if scan:
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=depth,
        )
        precise = jnp.promote_types(x.dtype, jnp.float32)  # small rates vanish in bfloat16
        scanned_rates = None if rates[0] is None else jnp.asarray(rates, precise)
        x, (tokens, weights) = stack(**fields, name=name)(x, scanned_rates, train)
        outputs = [(tokens[i], None if weights is None else weights[i]) for i in range(depth)]
    else:
        outputs = []
        for i, rate in enumerate(rates):
            x, output = block(**fields, name=f"{name}_{i}")(x, rate, train)
            outputs.append(output)
    features = OrderedDict()
    for i, (tokens, weights) in enumerate(outputs):
        if weights is not None:
            features[f"{name}_{i}/attention"] = weights
        features[f"{name}_{i}"] = tokens
    return x, features


def stack_blocks(params: Mapping, name: str = "blocks") -> dict:
    """Convert parameters of unrolled stacks to parameters of scanned stacks.

    Every group `<name>_0`, `<name>_1`, …, at any depth of the tree, becomes one `<name>` with a new
    leading axis. Other parameters are kept. `unstack_blocks` is the inverse.
    """
    if not isinstance(params, Mapping):
        return params
    blocks = []
    while f"{name}_{len(blocks)}" in params:
        blocks.append(params[f"{name}_{len(blocks)}"])
    taken = {f"{name}_{i}" for i in range(len(blocks))}
    rest = {k: stack_blocks(v, name) for k, v in params.items() if k not in taken}
    return {**rest, name: jax.tree.map(lambda *x: jnp.stack(x), *blocks)} if blocks else rest


def unstack_blocks(params: Mapping, name: str = "blocks") -> dict:
    """Convert parameters of scanned stacks to parameters of unrolled stacks; see `stack_blocks`."""
    if not isinstance(params, Mapping):
        return params
    rest = {k: unstack_blocks(v, name) for k, v in params.items() if k != name}
    if name in params:
        depth = len(jax.tree.leaves(params[name])[0])
        for i in range(depth):
            rest[f"{name}_{i}"] = jax.tree.map(lambda x, i=i: x[i], params[name])
    return rest
