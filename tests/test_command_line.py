# SPDX-License-Identifier: Apache-2.0
"""Whatever is typed ends in a checked config or in one line and exit code 2."""

import errno
import pathlib

from etils import epath
import numpy as np
import pytest

from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import main
from lamd_jax import run_folder
from lamd_jax import limits
from lamd_jax import validation
from lamd_jax.errors import ConfigError
from lamd_jax.tools import paths

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SKY = f"--config={CONFIGS / 'lvdm_sky.py'}"
LAMD = f"--config={CONFIGS / 'lamd_cater_gen_v1.py'}:demo"
GEN1 = f"--config={CONFIGS / 'gen1_cater.py'}:demo"


def _run(tmp_path, capsys, *arguments):
  code = main.run(["main", f"--workdir={tmp_path / 'run'}", *arguments])
  return code, capsys.readouterr().err


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([SKY + ":demox"], ["demox", "paper, demo, gpu"]),
    ([SKY, "--config.data.sze=3"], ["data.sze", "did you mean data.size"]),
    ([SKY, "--config.data=3"], ["data", "it has data."]),
    ([SKY, "--config.data.size=abc"], ["data.size=abc", "expected int"]),
    ([SKY, "--config.data.size=100"], ["data.size=100", "divisible by 64", "128"]),
    ([SKY, "--config.data.frames=18"], ["data.frames=18", "factor 4", "16"]),
    ([SKY, "--config.optim.diffusion.batch=7"], ["batch=7", "accumulate", "8"]),
    ([SKY, "--config.optim.diffusion.learning_rate=nan"], ["nan", "between 0 and 10"]),
    ([SKY, "--config.stages=diffusio"], ["diffusio is no stage", "autoencoder"]),
    ([SKY, "--config.diffusion.zero_terminal_snr=true"], ["eps", "use v"]),
    (
      [SKY, "--config.train.cudnn_attention=true", "--config.train.compute=float32"],
      ["bfloat16", "change one"],
    ),
    (
      [SKY + ":demo", "--config.optim.diffusion.batch=4096"],
      ["batch=4096", "larger than the data", "num_videos=768"],
    ),
    (
      [SKY, "--config.model.discriminator.channels=24",
       "--config.model.discriminator.norm=group"],
      ["discriminator.channels=24", "multiples of 32"],
    ),
    ([SKY, "--config.diffusion.guidance=3"], ["diffusion.guidance=3", "leave it at 1"]),
    ([SKY, "--config.model.denoiser.head_channels=32"], ["set model.denoiser.heads"]),
    ([LAMD, "--config.model.denoiser.temporal_kernel=3"], ["is of lvdm; leave it at 1"]),
    ([LAMD, "--config.model.autoencoder_frames=4"], ["autoencoder_frames=4", "at 0"]),
    ([GEN1, "--config.model.text.encoder=small"], ["through model.content"]),
    ([GEN1, "--config.model.content.text_heads=3"], ["must divide model.content.text"]),
    ([GEN1, "--config.model.content.image_channels=12"], ["a multiple of 8"]),
    ([GEN1, "--config.model.denoiser.head_channels=48"], ["head_channels=48", "divide"]),
    (
      [GEN1, *(f"--config.model.prior.{x}" for x in ("kind=diffusion", "width=66", "heads=6"))],
      ["prior.width=66", "a multiple of 4"],
    ),
    (
      [GEN1, *(f"--config.model.prior.{x}" for x in ("kind=diffusion", "levels=5", "steps=9"))],
      ["prior.steps=9", "prior.levels=5"],
    ),
    ([SKY, "--eval.task=reconstruction"], ["add --eval.protocol=NAME"]),
    ([SKY, "--eval.protocol=lvdm"], ["protocol=lvdm", "--mode=evaluate"]),
    ([SKY, "--sample.overlap=2"], ["overlap=2", "add --sample.long"]),
    ([SKY, "--sample.shared=3"], ["shared=3", "such as gen1"]),
    ([SKY, "--sample.stepz=3"], ["sample.stepz", "did you mean steps"]),
    ([SKY, "--sample.steps=5000"], ["sample.steps=5000", "1000"]),
    ([SKY, "--sample.guidance=2"], ["guidance=2", "1"]),
    ([SKY, "--eval.clips=1"], ["eval.clips=1", "between 8"]),
    ([SKY, "--mode=trian"], ["trian", "train, sample, evaluate"]),
    ([SKY, "--wrkdir=x"], ["wrkdir", "did you mean --workdir"]),
    ([SKY, "stray"], ["stray", "not a flag"]),
    (["--config=configs/nowhere.py"], ["nowhere.py", "no such file"]),
    ([], ["holds no run", "--config"]),
    (["--mode=sample"], ["holds no run; name the folder of a finished run"]),
    ([SKY, "--dry-run"], ["--dry-run: no such flag; did you mean --dry_run?"]),
    ([SKY, "--sample.seed=-1"], ["must lie between 0 and 2147483647"]),
    ([SKY, "--config.data.root"], ["--config.data.root", "no value"]),
    # As `--resume $RESUME --mode=sample` arrives where the variable is not set.
    ([SKY, "--resume", "--mode=sample"], ["--resume: has no value"]),
  ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, arguments, words):
  code, error = _run(tmp_path, capsys, *arguments)
  assert code == 2
  assert error.startswith("lamd_jax: ") and error.count("\n") == 1
  for word in words:
    assert word in error
  assert not (tmp_path / "run").exists()


def test_a_tilde_is_the_users_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  line = command_line.parse(["--sample.out=~/a", "--sample.text=~/a", "--sample.mask=~/m"])
  found = command_line.apply(config_lib.sample_defaults(), "sample", line)
  assert (found.out, found.mask) == (f"{tmp_path}/a", f"{tmp_path}/m")
  assert found.text == "~/a"  # words stay words
  assert paths.path("~/b") == tmp_path / "b"


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  config = command_line.load_config(SKY.removeprefix("--config="))
  with pytest.raises(ConfigError, match="run: cannot be written .Not a directory"):
    run_folder.write(epath.Path(tmp_path / "file" / "run"), config)


def test_what_a_stages_checkpoints_depend_on_stays(tmp_path):
  """Stages that have begun keep it; others may still be told otherwise."""
  stored = command_line.load_config(SKY.removeprefix("--config=") + ":demo")
  check = lambda given: run_folder.check_same(stored, given, epath.Path(tmp_path))
  for key, value in (
    ("optim.diffusion.optimizer", "adamw"), ("optim.diffusion.weight_decay", 0.1),
    ("optim.diffusion.ema_decay", 0.0), ("prediction.latents", 7),
  ):  # fmt: skip
    given = stored.copy_and_resolve_references()
    given.update_from_flattened_dict({key: value})
    check(given)
    folder = tmp_path / key.split(".")[-2]
    folder.mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=f"{key}=.*: the run in"):
      check(given)
    folder.rmdir()
  given = stored.copy_and_resolve_references()
  given.update_from_flattened_dict({"optim.diffusion.ema_decay": 0.5})
  (tmp_path / "diffusion").mkdir()
  check(given)  # another average, but there is one still


@pytest.mark.parametrize("text", ["null", "3", '"x"', "[1]", "{"])
def test_a_stored_config_of_another_kind_is_one_line(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ConfigError, match="config.json: not readable as JSON"):
    run_folder.read(epath.Path(tmp_path))


def test_a_full_disk_is_one_line_and_exit_1(tmp_path, capsys, monkeypatch):
  def full(line):
    raise OSError(errno.ENOSPC, "No space left on device", "/runs/sky/grid.mp4")

  monkeypatch.setattr(main, "resolve", full)
  code, error = _run(tmp_path, capsys, SKY)
  assert (code, error) == (1, "lamd_jax: /runs/sky/grid.mp4: No space left on device\n")
  # Anything else is ours to mend, and keeps its traceback.
  monkeypatch.setattr(main, "resolve", lambda line: open("/nowhere/x"))
  with pytest.raises(FileNotFoundError):
    _run(tmp_path, capsys, SKY)


def test_mesh_that_does_not_fit_the_devices(tmp_path, capsys):
  # conftest gives eight devices; the demo's batch of 2 cannot be split over them.
  code, error = _run(tmp_path, capsys, SKY + ":demo", "--config.train.mesh=dp")
  assert code == 2 and "devices = 1 x 8" in error


def test_a_broken_config_file_is_one_line(tmp_path, capsys):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config():\n  return 1 / 0\n")
  code, error = _run(tmp_path, capsys, f"--config={broken}")
  assert code == 2 and "ZeroDivisionError" in error and error.count("\n") == 1


def test_help_fits_a_terminal_and_shows_five_commands_that_parse(capsys):
  for flag in ("--help", "-h"):
    assert main.run(["main", flag]) == 0
  text = capsys.readouterr().out
  lines = text[: len(text) // 2].splitlines()
  assert len(lines) <= 24 and max(map(len, lines)) <= 80
  shown = [line[12:].split("   ")[0].split() for line in lines[2:7]]
  assert len(shown) == 5 and all(arguments for arguments in shown)
  for arguments in shown:
    command_line.parse(arguments)
    for argument in arguments:
      if argument.startswith("--config=configs/"):
        name = argument.removeprefix("--config=configs/")
        command_line.load_config(f"{CONFIGS}/{name}")


def test_full_help_names_every_key(capsys):
  assert main.run(["main", "--helpfull"]) == 0
  text = capsys.readouterr().out
  assert max(map(len, text.splitlines())) <= 132
  for tree in (config_lib.sample_defaults(), config_lib.eval_defaults()):
    for key in tree:
      assert key in text


def test_every_leaf_has_a_rule():
  trees = (
    config_lib.defaults(),
    config_lib.sample_defaults(),
    config_lib.eval_defaults(),
  )
  known = {*limits.CHOICES, *limits.LIMITS, *limits.FREE_TEXT}
  known |= set(limits.CHECKED_ELSEWHERE)
  for tree in trees:
    for key, value in limits.leaves(tree):
      assert isinstance(value, bool) or limits.pattern(key) in known, key


@pytest.mark.parametrize("name", ["lvdm_sky", "lvdm_ucf101", "lvdm_taichi"])
@pytest.mark.parametrize("variant", ["paper", "demo", "gpu"])
def test_shipped_configs_are_valid(name, variant):
  config = command_line.load_config(f"{CONFIGS / name}.py:{variant}")
  validation.check_config(config, devices=1)
  assert (config.name, config.variant) == (name, variant)


def test_fuzzed_leaves_are_valid_or_exit_2():
  """Each leaf x wrong type, NaN, negative, huge: a config that passes, or one line."""
  generator = np.random.default_rng(0)
  wild = ["nan", "-1", "1e309", "0", "999999999999", "abc", "", "(1,)", "true", "[", "-"]
  config = config_lib.defaults()
  for key, value in list(limits.leaves(config)):
    for text in wild + [str(generator.integers(-5, 5)) + "x"]:
      line = command_line.CommandLine(overrides=(("config", key, text),))
      try:
        command_line.apply(config, "config", line)
        validation.check_config(config, devices=1)
      except ConfigError as error:
        # The value at fault is named: this key, or one that no longer fits it.
        assert "--config." in str(error) and "\n" not in str(error)
      finally:
        config.update_from_flattened_dict({key: value})


def test_stored_config_rules(tmp_path, capsys):
  config = command_line.load_config(f"{CONFIGS / 'lvdm_sky'}.py:demo")
  run_folder.write(run_folder.epath.Path(tmp_path / "run"), config)
  stored = run_folder.read(run_folder.epath.Path(tmp_path / "run"))
  assert stored.to_dict() == config.to_dict()
  code, error = _run(tmp_path, capsys, SKY + ":demo", "--config.data.size=64")
  assert code == 2 and "data.size=64" in error and "was made with 32" in error
  # A longer training is the same experiment.
  longer = ["--config.optim.diffusion.steps=999", "--dry_run"]
  line = command_line.parse([f"--workdir={tmp_path / 'run'}", *longer])
  assert main.resolve(line).config.optim.diffusion.steps == 999
