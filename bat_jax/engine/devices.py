"""Facts of devices that a program can be compiled for without owning one: memory, rates, and what XLA must know.

Rates are those of the makers' data sheets for dense products (no sparsity): NVIDIA's of each card, Google Cloud's pages
of TPU versions. What XLA reads of a GPU are public numbers, too, in the form of openxla/xla's
xla/backends/gpu/target_config/specs. The memory is what the driver reports where one of those files has it, else the
card's nominal size.
"""

import dataclasses
from typing import Literal

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device (a TPU's is a chip).

    Attributes:
      title: its whole name. platform: whose compiler XLA takes.
      memory_bytes: in all. reserved_bytes: of it, not a program's (context, libraries, or a TPU's own share): assumed.
      bandwidth: bytes a second from memory. bf16_flops, f32_flops: operations a second in products; on a GPU without
        bfloat16 products both are float32's, on a TPU float32 takes six passes of bfloat16.
      architecture: devices of one architecture get the same programs, but for what depends on the number of cores.
      target: a GPU's GpuTargetConfigProto as text. topology: a TPU's topology name without its extent.
    """

    title: str
    platform: Literal["cuda", "tpu"]
    architecture: str
    memory_bytes: int
    reserved_bytes: int
    bandwidth: float
    bf16_flops: float
    f32_flops: float
    target: str = ""
    topology: str = ""

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes - self.reserved_bytes


# shared memory of a core and of a block at most, threads and float32 units of a core
_CORES = {
    (7, 5): (65_536, 65_536, 1024, 64),
    (8, 0): (167_936, 166_912, 2048, 64),
    (8, 6): (102_400, 101_376, 1536, 128),
    (8, 9): (102_400, 101_376, 1536, 128),
    (9, 0): (233_472, 232_448, 2048, 128),
    (10, 0): (233_472, 232_448, 2048, 128),
    (12, 0): (131_072, 101_376, 1536, 128),
}


def _gpu(
    title: str,
    capability: tuple[int, int],
    cores: int,
    clock_ghz: float,
    cache_bytes: int,
    memory_bytes: int,
    bandwidth: float,
    bf16_flops: float,
    f32_flops: float,
) -> DeviceFacts:
    shared, shared_of_block, threads, units = _CORES[capability]
    major, minor = capability
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": shared,
        "threads_per_core_limit": threads,
        "core_count": cores,
        "fpus_per_core": units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "memory_bandwidth": int(bandwidth),
        "l2_cache_size": cache_bytes,
        "clock_rate_ghz": clock_ghz,
        "device_memory_size": memory_bytes,
        "shared_memory_per_block_optin": shared_of_block,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
    }
    numbers = " ".join(f"{name}: {value}" for name, value in fields.items())
    return DeviceFacts(
        title=title,
        platform="cuda",
        architecture=f"sm_{major}{minor}",
        memory_bytes=memory_bytes,
        reserved_bytes=GIB,
        bandwidth=bandwidth,
        bf16_flops=bf16_flops,
        f32_flops=f32_flops,
        target=(
            f"gpu_device_info {{ {numbers} cuda_compute_capability {{ major: {major} minor: {minor} }} }}\n"
            'platform_name: "CUDA"\n'
            "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
            f'device_description_str: "{title}"\n'
        ),
    )


def _tpu(title: str, topology: str, memory_bytes: int, bandwidth: float, bf16_flops: float) -> DeviceFacts:
    return DeviceFacts(
        title=title,
        platform="tpu",
        architecture=topology,
        memory_bytes=memory_bytes,
        reserved_bytes=GIB // 2,
        bandwidth=bandwidth,
        bf16_flops=bf16_flops,
        f32_flops=bf16_flops / 6,
        topology=topology,
    )


DEVICES: dict[str, DeviceFacts] = {
    "b200": _gpu("NVIDIA B200", (10, 0), 148, 1.965, 132_644_864, 191_514_411_008, 7.672e12, 2250e12, 75e12),
    "h200": _gpu("NVIDIA H200 141GB HBM3e", (9, 0), 132, 1.98, 52_428_800, 151_397_597_184, 4.8e12, 989e12, 67e12),
    "h100": _gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 52_428_800, 84_942_979_072, 3.352e12, 989e12, 67e12),
    "a100-80": _gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 41_943_040, 85_100_068_864, 2.039e12, 312e12, 19.5e12),
    "a100-40": _gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 1.41, 41_943_040, 42_331_013_120, 1.555e12, 312e12, 19.5e12),
    "rtx6000pro": _gpu(
        "NVIDIA RTX PRO 6000 Blackwell", (12, 0), 188, 2.6, 134_217_728, 103_079_215_104, 1.792e12, 503.8e12, 125e12
    ),
    "rtx5090": _gpu("NVIDIA GeForce RTX 5090", (12, 0), 170, 2.41, 100_663_296, 32 * GIB, 1.792e12, 209.5e12, 104.8e12),
    "l40s": _gpu("NVIDIA L40S", (8, 9), 142, 2.52, 100_663_296, 48 * GIB, 864e9, 362e12, 91.6e12),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 75_497_472, 24 * GIB, 1.008e12, 165.2e12, 82.6e12),
    "l4": _gpu("NVIDIA L4", (8, 9), 58, 2.04, 50_331_648, 24 * GIB, 300e9, 121e12, 30.3e12),
    "a6000": _gpu("NVIDIA RTX A6000", (8, 6), 84, 1.8, 6_291_456, 51_041_271_808, 768e9, 154.8e12, 38.7e12),
    "rtx3090": _gpu("NVIDIA GeForce RTX 3090", (8, 6), 82, 1.7, 6_291_456, 24 * GIB, 936e9, 71e12, 35.6e12),
    "t4": _gpu("NVIDIA T4", (7, 5), 40, 1.59, 4_194_304, 16 * GIB, 320e9, 8.1e12, 8.1e12),
    "v5e": _tpu("TPU v5e", "v5e", 16 * GIB, 819e9, 197e12),
    "v6e": _tpu("TPU v6e", "v6e", 32 * GIB, 1640e9, 918e12),
    "v5p": _tpu("TPU v5p", "v5p", 95 * GIB, 2765e9, 459e12),
}


def find_device(name: str) -> DeviceFacts:
    """Return the facts of a device.

    Raises:
      ValueError: no device of this name is known; lists those that are.
    """
    if name not in DEVICES:
        raise ValueError(f"device={name}: is not known; known are {', '.join(DEVICES)}")
    return DEVICES[name]
