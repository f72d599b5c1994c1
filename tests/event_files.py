"""Reader of TensorBoard event files: records of length, checksum, bytes, checksum."""

import struct


def read_points(folder):
    """Return (name, step, value) of every value in the event files of a folder, in order.

    The value of a picture is (width, height, bytes of the file).
    """
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.glob("events.*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            event = Event.FromString(data[start + 12 : start + 12 + length])
            points += [(v.tag, event.step, _content(v)) for v in event.summary.value]
            start += 12 + length + 4
    return points


def _content(value):
    if value.HasField("image"):
        return value.image.width, value.image.height, value.image.encoded_image_string
    return value.simple_value
