"""Reader of TensorBoard event files: records of length, checksum, bytes, checksum."""

import struct


def read_points(folder):
    """Return (name, step, value) of every scalar in the event files of a folder, in order."""
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.glob("events.*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            event = Event.FromString(data[start + 12 : start + 12 + length])
            points += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            start += 12 + length + 4
    return points
