"""Write every intermediate of one answer as named arrays, for debugging a port.

    python -m experiments.trace --checkpoint=DIR --image=FILE --question="How many ships are there?" --output=OUT.npz
    python -m experiments.trace --checkpoint=DIR --image=FILE --input_ids=IDS.npy --output=OUT.npz

S is the scale in pixels; floats are float32; tokens are tile-major (tile * P + row * side + col).

    pixels_S (tiles, t, t, 3)         normalised        vision_S (tiles, P, E)      projected_S (tiles, P, D)
    scale_embedding_S                 (P, D) for extent "tile", (tiles * P, D) for extent "scale", where there is one
    anchor_importance (M,)            importance_S (tiles, side, side)
    kmeans_init_S (k,)                region_id_S (tiles * P,): cluster, or the label map's label
    selected_S (J, D)                 before the token MLP; zeros outside the mask
    selected_index_S (J,)             token index, -1 for a merged row and outside the mask
    selected_region_S (J,)            region_id_S of the row, -1 outside the mask      selected_mask_S (J,)
    selected_importance_S (J,)        score of the row, for a merged row the mean of what it merges
    visual_tokens (U, D)              after the token MLP, valid rows of all scales
    input_ids (n,)                    prompt with -200 for the image                   inputs_embeds (T, D)
    logits (T, V)                     over the whole spliced prompt                    generated_ids
"""

import pathlib

import jax.numpy as jnp
import numpy as np
from absl import flags

from bat_jax import model as bat
from bat_jax.asking import Answer
from bat_jax.compress.partition import ALONE
from bat_jax.io.output_files import staged_file
from bat_jax.io.prompts import IMAGE_ID, Prompt, build_prompt, split_ids
from bat_jax.pipeline import BatModel, Scene
from . import cli
from . import compressor_flags as compressor
from .mesh_flags import mesh_of_flags

CHECKPOINT = flags.DEFINE(
    cli.CheckpointParser(), "checkpoint", None, "Directory that convert wrote, or uhr-bat-mini.", required=True
)
IMAGE = flags.DEFINE_string("image", None, "Image file.", required=True)
QUESTION = flags.DEFINE_string("question", None, "Question about the image.")
INPUT_IDS = flags.DEFINE_string("input_ids", None, "NPY file of the prompt's ids, with -200 in the image's place.")
OUTPUT = flags.DEFINE_string("output", None, "NPZ file to write.", required=True)
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 12, "Most tokens to generate.", lower_bound=1)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing output file.")


def read_prompt(model: BatModel) -> Prompt:
    """Return the prompt of --question or --input_ids, with one image."""
    if QUESTION.value is not None:
        return build_prompt(model.tokenizer, QUESTION.value, 1, model.cfg.prompt)
    path = pathlib.Path(INPUT_IDS.value)
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise ValueError(f"--input_ids={path}: is no readable NPY file") from None
    prompt = split_ids(ids)
    if len(prompt.pieces) != 2:
        raise ValueError(f"--input_ids={path}: holds {len(prompt.pieces) - 1} image places, a trace has one image")
    limit = model.cfg.decoder.vocab_size
    if any(piece.size and (piece.min() < 0 or piece.max() >= limit) for piece in prompt.pieces):
        raise ValueError(f"--input_ids={path}: ids must be {IMAGE_ID} or in [0, {limit})")
    return prompt


def question_arrays(scene: Scene, answer: Answer) -> dict[str, np.ndarray]:
    """Return importance, regions and selections of every scale."""
    arrays = {"anchor_importance": answer.anchor_importance[0]}
    for index, size in enumerate(scene.scales_px):
        grid = scene.grids[index]
        selection, labels = answer.selections[0][index], scene.region_labels[index]
        arrays[f"importance_{size}"] = answer.importance[0][index].reshape(grid.tiles**2, grid.side, grid.side)
        region_id = np.asarray(scene.scales[index].region_id)
        region = selection.region
        if labels is not None:  # label map: give the labels themselves, background tokens are 0
            with_background = np.append(labels, 0)
            region_id = with_background[region_id]
            if selection.group is None:  # a selection with groups of its own does not use the regions
                region = np.where(selection.mask, with_background[region], ALONE)
        arrays[f"region_id_{size}"] = region_id.astype(np.int32)
        arrays[f"selected_{size}"] = selection.tokens.astype(np.float32)
        arrays[f"selected_index_{size}"] = selection.keep_index
        arrays[f"selected_region_{size}"] = region.astype(np.int32)
        arrays[f"selected_mask_{size}"] = selection.mask
        arrays[f"selected_importance_{size}"] = selection.importance
    return arrays


def prompt_arrays(model: BatModel, scene: Scene, prompt: Prompt) -> dict[str, np.ndarray]:
    """Return the visual tokens, the spliced embeddings and the logits at every valid row."""
    compression = model.compress([scene], prompt.pieces[-1:])
    spliced = model.splice(prompt, compression)
    logits = model.stages.run("all_logits", bat.all_logits, (model.cfg.networks,), model.params, spliced)
    length = int(spliced.length[0])
    tokens, mask = compression[0].tokens, np.asarray(compression[0].mask)
    return {
        "visual_tokens": np.asarray(tokens, np.float32)[mask],
        "input_ids": np.concatenate([prompt.pieces[0], [IMAGE_ID], prompt.pieces[1]]).astype(np.int32),
        "inputs_embeds": np.asarray(spliced.embeddings[0].astype(jnp.float32))[:length],
        "logits": np.asarray(logits[0])[:length],
    }


def main(_: list[str]) -> None:
    """Encode, ask, and write the arrays."""
    if (QUESTION.value is None) == (INPUT_IDS.value is None):
        raise ValueError("--question, --input_ids: give one of them")
    output = pathlib.Path(OUTPUT.value)
    if output.suffix != ".npz":
        raise ValueError(f"--output={output}: must end in .npz")
    if output.exists() and not OVERWRITE.value:
        raise ValueError(f"--output={output}: exists; give --overwrite to replace it")
    cfg = compressor.configure(BatModel.read_config(CHECKPOINT.value))
    mesh = mesh_of_flags(cfg)
    source = compressor.read_source(IMAGE.value, cfg)
    options = compressor.encode_options(source, 0, 1)
    model = BatModel.load(CHECKPOINT.value, cfg=cfg, mesh=mesh)
    prompt = read_prompt(model)
    scene = model.encode(source, prefix_ids=prompt.pieces[0], keep_intermediates=True, **options)
    answer = model.answer_prompt([scene], prompt, max_new_tokens=MAX_NEW_TOKENS.value, seed=compressor.SEED.value)
    arrays = dict(scene.intermediates) | question_arrays(scene, answer) | prompt_arrays(model, scene, prompt)
    arrays["generated_ids"] = answer.token_ids
    with staged_file(output) as stage:
        np.savez(stage, **arrays)
    for name, array in sorted(arrays.items()):
        print(f"{name:<26} {array.dtype!s:<8} {array.shape}")
    print(f"wrote {len(arrays)} arrays to {output}")


if __name__ == "__main__":
    cli.run(main)
