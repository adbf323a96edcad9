"""TensorBoard: event files in the run folder, which `tensorboard --logdir` on the folder of the runs finds."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from openmae.report.loggers.logger import Ending, LoggedRun, Row, cell, markdown, typed

_SUFFIX = ".openmae"  # of our event files


def check() -> None:
    """Needs no login."""
    import_module("tensorboard.summary.writer.event_file_writer")


def open_run(run: LoggedRun, kept: dict[str, Any]) -> "_Run":
    """kept["files"]: names of the event files so far."""
    files = [name for name in kept.get("files", []) if (run.folder / name).exists()]
    for other in run.folder.glob(f"events.out.tfevents.*{_SUFFIX}"):  # of a run that was begun here and given up
        if other.name not in files:
            other.unlink()
    return _Run(run, kept, files)


class _Run:
    def __init__(self, run: LoggedRun, kept: dict[str, Any], files: list[str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event = Event
        self.where = f"tensorboard --logdir {typed(run.folder.parent)}"
        self.reached = None if files else -1
        before = set(_ours(run.folder))
        self._writer = EventFileWriter(str(run.folder), filename_suffix=_SUFFIX)
        kept["files"] = [*files, *sorted(set(_ours(run.folder)) - before)]
        if files:  # readers drop what a killed start has written beyond what it has noted
            session = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=kept.get("step", -1) + 1, session_log=session))
        else:
            self._introduce(run)
        self._kept = kept

    def _introduce(self, run: LoggedRun) -> None:
        rows = "".join(f"| {name} | {cell(value)} |\n" for name, value in run.config.items())
        self._text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
        self._text("run folder", f"[{run.folder}]({run.link})", 0)
        self._hparams(run.config)

    def _hparams(self, config: Mapping[str, Any]) -> None:
        """What the tab of that name compares runs by. tensorboard's own function for it needs TensorFlow."""
        from google.protobuf.struct_pb2 import Value
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

        started = SessionStartInfo(start_time_secs=time.time())
        for name, value in config.items():
            if isinstance(value, bool):
                started.hparams[name].CopyFrom(Value(bool_value=value))
            elif isinstance(value, int | float):
                started.hparams[name].CopyFrom(Value(number_value=value))
            else:
                started.hparams[name].CopyFrom(Value(string_value=cell(value)))
        content = HParamsPluginData(session_start_info=started, version=metadata.PLUGIN_DATA_VERSION)
        plugin = SummaryMetadata.PluginData(
            plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString(deterministic=True)
        )
        about = SummaryMetadata(plugin_data=plugin)
        self._add(Summary(value=[Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=about)]), 0)

    def line(self, step: int, seconds: float, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Summary(value=values), step, seconds)
        for name, file in pictures.items():
            self._picture(name, file, step, seconds)
        self._kept["step"] = step

    def flush(self) -> None:
        self._writer.flush()

    def result(self, step: int, rows: Sequence[Row], pictures: Mapping[str, Path]) -> None:
        self._text("results", markdown(rows), step)
        for name, file in pictures.items():
            self._picture(name, file, step, time.time())

    def close(self, how: Ending) -> None:
        self._writer.close()

    def _add(self, summary: Any, step: int, seconds: float | None = None) -> None:
        self._writer.add_event(self._event(wall_time=seconds or time.time(), step=step, summary=summary))

    def _text(self, name: str, text: str, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        self._add(Summary(value=[Summary.Value(tag=name, metadata=about, tensor=tensor)]), step)

    def _picture(self, name: str, file: Path, step: int, seconds: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(file, formats=["PNG", "JPEG"]) as picture:
            width, height = picture.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), step, seconds)


def _ours(folder: Path) -> list[str]:
    return [file.name for file in folder.glob(f"events.out.tfevents.*{_SUFFIX}")]
