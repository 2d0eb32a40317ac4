#!/usr/bin/env python3
"""How many tokens a second a code language model says: ours in each of its ways against transformers' `generate`; one JSON object.

    tools/bench_engine.py --tokens 500 --rounds 5 --batch 1 8

One model of random weights, in our `Transformer` and as transformers' Llama. Every way says the same number of tokens greedily after the
same prompt; ways take turns, and each figure is the median of the rounds. In float32 all must say the same tokens, or there are no figures.
The floor is the time in which the weights can be read: their bytes over what a large matrix-vector product reads in the same rounds.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

from audiotok.data.costs import machine
from audiotok.nn.inference import FastTransformer, for_inference
from audiotok.nn.matrix import Matrix
from audiotok.nn.transformer import ROTARY_BASE, Transformer

PROMPT = 4  # tokens
SPREAD = 0.06  # of the weights: with the usual 0.02 attention hardly matters, and the model soon says the same few tokens for ever
PROBE = 16384, 4096  # of the matrix that measures the bandwidth: 256 MiB, as much as the weights
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}

Way = Callable[[Tensor], Tensor]  # prompt_BN -> tokens_BN, those said after it


@dataclass(frozen=True)
class CodeLM:
    """Embedding, transformer, head: nothing else, as all else costs the same in every way."""

    embedding_VD: Tensor
    transformer: Transformer | FastTransformer
    head: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def say(self, prompt_BN: Tensor, *, tokens: int) -> Tensor:
        cache, given_BN, said = self.transformer.cache(len(prompt_BN), positions=prompt_BN.shape[1] + tokens), prompt_BN, []
        for _ in range(tokens):
            hidden_BND = self.transformer(F.embedding(given_BN, self.embedding_VD), cache=cache)
            given_BN = self.head(hidden_BND[:, -1:]).argmax(-1)
            said.append(given_BN)
        return torch.cat(said, 1)


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    llama = _llama(options)
    ways = _ways(llama, options)
    found = {f"batch_{rows}": _measure(ways, llama, rows, options) for rows in options.batch}
    told = {name: getattr(options, name) for name in ("layers", "width", "heads", "feed_forward", "vocabulary", "tokens", "rounds", "seed")}
    machine_told = machine(torch.device("cpu")) | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    print(json.dumps({**told, "weights": _weights(llama), "machine": machine_told, **found}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"tokens": 500, "rounds": 5, "layers": 12, "width": 768, "heads": 12, "feed-forward": 2048, "vocabulary": 1024, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, help="PyTorch's own choice where not given")
    parser.add_argument("--ways", nargs="+", help="some of the ways only; all where not given")
    parser.add_argument("--compile", action="store_true", help="time transformers' static cache through torch.compile too: minutes more")
    return parser.parse_args()


def _llama(options: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.feed_forward,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=PROMPT + options.tokens,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        rms_norm_eps=torch.finfo(torch.float32).eps,  # nn.RMSNorm's own
        initializer_range=SPREAD,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def _ours(llama: LlamaForCausalLM) -> Transformer:
    """A Transformer of the same weights; both turn component i with component i + D/2."""
    config = llama.config
    ours = Transformer(
        config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        dropout=0.0,
    )
    state = {"norm.weight": llama.model.norm.weight}
    for index, layer in enumerate(llama.model.layers):
        attention, feed_forward, block = layer.self_attn, layer.mlp, f"blocks.{index}"
        state[f"{block}.attention_norm.weight"] = layer.input_layernorm.weight
        state[f"{block}.attention.input.weight"] = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        state[f"{block}.attention.output.weight"] = attention.o_proj.weight
        state[f"{block}.feed_forward_norm.weight"] = layer.post_attention_layernorm.weight
        state[f"{block}.feed_forward.input.weight"] = torch.cat([feed_forward.gate_proj.weight, feed_forward.up_proj.weight])
        state[f"{block}.feed_forward.down.weight"] = feed_forward.down_proj.weight
    ours.load_state_dict(state)
    return ours.eval()


def _ways(llama: LlamaForCausalLM, options: argparse.Namespace) -> dict[str, Way]:
    ours, embedding, head = _ours(llama), llama.model.embed_tokens.weight.detach(), llama.lm_head.weight.detach()
    models = {"module": CodeLM(embedding, ours, lambda hidden_BND: F.linear(hidden_BND, head))}
    models |= {kind: CodeLM(embedding, for_inference(ours, weights=kind), Matrix(head, kind)) for kind in ("fp32", "bf16", "int8")}
    ways: dict[str, Way] = {
        f"ours_{name}": lambda prompt, model=model: model.say(prompt, tokens=options.tokens) for name, model in models.items()
    }
    ways |= {f"transformers_{cache}": _generate(llama, options.tokens, cache_implementation=cache) for cache in ("dynamic", "static")}
    if options.compile:
        compiled = CompileConfig(mode="default", fullgraph=False)
        compiled._compile_all_devices = True  # by itself `generate` compiles for accelerators alone
        ways["transformers_static_compiled"] = _generate(llama, options.tokens, cache_implementation="static", compile_config=compiled)
    return {name: way for name, way in ways.items() if options.ways is None or name in options.ways}


def _generate(llama: LlamaForCausalLM, tokens: int, **how: Any) -> Way:
    # `generate` compiles a static cache's step by itself where it can; without that said, the two would be mixed up.
    how = {"disable_compile": "compile_config" not in how} | how

    def way(prompt_BN: Tensor) -> Tensor:
        whole_BN = llama.generate(
            prompt_BN,
            attention_mask=torch.ones_like(prompt_BN),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            **how,
        )
        return whole_BN[:, prompt_BN.shape[1] :]

    return way


def _measure(ways: dict[str, Way], llama: LlamaForCausalLM, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    prompt_BN = torch.randint(options.vocabulary, (rows, PROMPT), generator=torch.Generator().manual_seed(options.seed))
    said = {name: way(prompt_BN) for name, way in ways.items()}  # also what is made at first use
    _check(said)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bandwidths = []
    for index in range(options.rounds):
        bandwidths.append(_bandwidth())
        for name, way in ways.items():
            start = perf_counter()
            way(prompt_BN)
            seconds[name].append(perf_counter() - start)
            print(f"batch {rows}, round {index + 1}, {name}: {options.tokens / seconds[name][-1]:.1f} steps/s", file=sys.stderr)
    return _told(said, seconds, bandwidths, llama, rows=rows, tokens=options.tokens)


def _check(said: dict[str, Tensor]) -> None:
    exact = {name: tokens_BN for name, tokens_BN in said.items() if name not in ("ours_bf16", "ours_int8")}
    first = next(iter(exact.values()), None)
    differing = {name: place for name, tokens_BN in exact.items() if (place := _differs(first, tokens_BN)) is not None}
    if differing:
        raise SystemExit(f"in float32 all must say the same tokens; from {next(iter(exact))} differ, first at token: {differing}")


def _differs(first_BN: Tensor, second_BN: Tensor) -> int | None:
    """The first place at which any row differs."""
    places = (first_BN != second_BN).any(0).nonzero()
    return int(places[0]) if len(places) else None


def _bandwidth() -> float:
    """Bytes a second that a matrix-vector product reads, of the quickest of five."""
    matrix, vector, spent = torch.ones(PROBE), torch.ones(PROBE[1]), []
    for _ in range(5):
        start = perf_counter()
        torch.mv(matrix, vector)
        spent.append(perf_counter() - start)
    return matrix.nbytes / min(spent)


def _weights(llama: LlamaForCausalLM) -> int:
    """How many weights a step reads: all but the embedding, of which it reads a row."""
    return sum(parameter.numel() for name, parameter in llama.named_parameters() if "embed_tokens" not in name)


def _told(
    said: dict[str, Tensor], seconds: dict[str, list[float]], bandwidths: list[float], llama: LlamaForCausalLM, *, rows: int, tokens: int
) -> dict[str, Any]:
    speed = {name: rows * tokens / statistics.median(spent) for name, spent in seconds.items()}
    bandwidth = statistics.median(bandwidths)
    floors = {kind: rows * bandwidth / (_weights(llama) * size) for kind, size in BYTES.items()}
    of_theirs = [speed[name] for name in ("transformers_dynamic", "transformers_static") if name in speed]
    exact = next((tokens_BN for name, tokens_BN in said.items() if name not in ("ours_bf16", "ours_int8")), None)
    return {
        "tokens_per_second": {name: round(value, 1) for name, value in speed.items()},
        "range": {name: [round(rows * tokens / edge, 1) for edge in (max(spent), min(spent))] for name, spent in seconds.items()},
        "times_the_better_of_transformers": {name: round(value / max(of_theirs), 2) for name, value in speed.items() if of_theirs},
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
        "floor_tokens_per_second": {kind: round(floor, 1) for kind, floor in floors.items()},
        "share_of_floor": {kind: round(speed[f"ours_{kind}"] / floor, 3) for kind, floor in floors.items() if f"ours_{kind}" in speed},
        "same_tokens_in_float32": True,
        "distinct_tokens": None if exact is None else len(exact.unique()),
        "first_token_that_differs": {
            name: _differs(exact, said[name]) for name in ("ours_bf16", "ours_int8") if name in said and exact is not None
        },
    }


if __name__ == "__main__":
    main()
