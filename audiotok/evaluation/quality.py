"""How good it sounds, without a reference."""

from pathlib import Path

from audiotok.evaluation.metric import JUDGE_RATE, Column, Utterance, Value, identity, package, speech_of

MIN_SECONDS = 0.2


class Dnsmos:
    """DNSMOS P.835 (arXiv 2110.01763: overall, signal, background) and P.808 (arXiv 2010.15258), predicted opinions from 1 to 5.

    The judge hears 9.01 s at a time; a shorter utterance is repeated up to that, as Microsoft's script does.
    """

    columns = (
        Column("dnsmos_ovrl", "DNSMOS OVRL", "mean", "higher"),
        Column("dnsmos_sig", "SIG", "mean", "higher"),
        Column("dnsmos_bak", "BAK", "mean", "higher"),
        Column("dnsmos_p808", "P.808", "mean", "higher"),
    )

    def __init__(self, *, threads: int) -> None:
        dnsmos, onnx = package("speechmos", module="speechmos.dnsmos"), package("onnxruntime")
        weights = [Path(str(dnsmos.__file__)).parent / "dnsmos_models" / name for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
        options = onnx.SessionOptions()
        options.intra_op_num_threads = threads
        self.judge = identity("speechmos", weights)
        self.model = dnsmos.DNSMOS(*map(str, weights))
        # the package's own sessions take every core and spin on it
        self.model.onnx_sess, self.model.p808_onnx_sess = (onnx.InferenceSession(str(path), options) for path in weights)

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        wav_T = speech_of(estimate, min_seconds=MIN_SECONDS).clip(-1, 1)  # resampling overshoots full scale by a little
        scores = self.model(wav_T, JUDGE_RATE, False)
        return {f"dnsmos_{name}": float(scores[f"{name}_mos"]) for name in ("ovrl", "sig", "bak", "p808")}
