"""What is done to pickles before they are read: opcodes left out, doubled, moved, or made up."""

import io
import pickletools
import struct
import zipfile

from hypothesis import strategies as st

Draw = st.DrawFn

#: Opcodes with arguments that mean something: values, containers, names, calls, the memo.
SNIPPETS = [
    b"N",
    b"\x88",
    b"K\x05",
    b"J\xff\xff\xff\x7f",
    b"M\xff\xff",
    b"\x8a\x01\xff",
    b"I12\n",
    b"L5L\n",
    b"G" + bytes(8),
    b"F1e999\n",
    b"U\x01a",
    b"X\x01\x00\x00\x00b",
    b"\x8c\x01c",
    b"C\x02\xff\x00",
    b"V\\ud800\n",
    b"S'a'\n",
    b"(",
    b"0",
    b"1",
    b"2",
    b"]",
    b"}",
    b")",
    b"\x8f",
    b"l",
    b"d",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"\x90",
    b"\x91",
    b"q\x00",
    b"q\x01",
    b"h\x00",
    b"h\x01",
    b"j\x05\x00\x00\x00",
    b"r\xff\xff\xff\xff",
    b"\x94",
    b"p3\n",
    b"g3\n",
    b"R",
    b"b",
    b"o",
    b"\x81",
    b"\x92",
    b"Q",
    b"Px\n",
    b"\x93",
    b".",
    b"\x95" + bytes(8),
    b"\x80\x05",
    b"\x82\x01",
    b"\x97",
    b"\x98",
    b"ibuiltins\nlist\n",
    b"ccollections\nOrderedDict\n",
    b"cbuiltins\nset\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"cargparse\nNamespace\n",
    b"cmem_transformer\nMemTransformerLM\n",
    b"cposix\nsystem\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\nstr\n",
    b"cbuiltins\nbytes\n",
    b"ctorch\nSize\n",
    b"cbuiltins\n\x1b[2J\n",
    b"\x8d" + struct.pack("<Q", 1 << 50),
    b"\x96" + struct.pack("<Q", 1 << 50),
]


@st.composite
def made_up(draw: Draw) -> bytes:
    """Return a pickle of opcodes that fit together by chance alone."""
    parts = draw(st.lists(st.sampled_from(SNIPPETS), max_size=40))
    return draw(st.sampled_from([b"", b"\x80\x02", b"\x80\x04"])) + b"".join(parts) + b"."


def opcodes(data: bytes) -> list[bytes]:
    """Return a pickle in pieces."""
    starts = [place or 0 for _, _, place in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


@st.composite
def mutated_pickle(draw: Draw, data: bytes) -> bytes:
    """Return a pickle with one to four opcodes changed, or another one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(made_up())
    parts = opcodes(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(parts) - 1))
        change = draw(
            st.sampled_from(["delete", "double", "swap", "insert", "replace", "argument"])
        )
        if change == "delete" and len(parts) > 1:
            del parts[at]
        elif change == "double":
            parts[at:at] = [parts[at]] * draw(st.sampled_from([1, 2, 40, 3000]))
        elif change == "swap":
            other = draw(st.integers(0, len(parts) - 1))
            parts[at], parts[other] = parts[other], parts[at]
        elif change == "argument" and len(parts[at]) > 1:
            parts[at] = parts[at][:1] + draw(st.binary(min_size=1, max_size=len(parts[at])))
        else:
            snippet = draw(st.sampled_from(SNIPPETS))
            parts[at : at + (change == "replace")] = [snippet]
    return b"".join(parts)


@st.composite
def mutated_archive(draw: Draw, data: bytes) -> bytes:
    """Return a file of `torch.save` with another pickle or member, or packed."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    (pickled,) = [name for name in members if name.endswith("data.pkl")]
    kind = draw(st.sampled_from(["pickle", "pickle", "pickle", "member", "packed"]))
    if kind == "pickle":
        members[pickled] = draw(mutated_pickle(members[pickled]))
    elif kind == "member":
        name = draw(st.sampled_from(sorted(members)))
        content = members.pop(name)
        if draw(st.booleans()):
            members[draw(st.sampled_from([name, name + "x", "/" + name, "\x1b" + name]))] = content[
                :-1
            ]
    method = zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


@st.composite
def mutated_older_file(draw: Draw, data: bytes) -> bytes:
    """Return a file of the layout before PyTorch 1.6 with one of its pickles changed."""
    pickles, rest = [], io.BytesIO(data)
    for _ in range(5):
        begin = rest.tell()
        for _ in pickletools.genops(rest):
            pass
        pickles.append(data[begin : rest.tell()])
    storages = data[rest.tell() :]
    at = draw(st.sampled_from([0, 1, 2, 3, 3, 3, 3, 4]))
    pickles[at] = draw(mutated_pickle(pickles[at]))
    return b"".join(pickles) + storages
