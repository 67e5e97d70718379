"""XMP packets: what to change in them when the picture goes on without what they speak of."""

from __future__ import annotations

import re
from xml.dom import minidom
from xml.parsers.expat import ExpatError

# Namespaces of what lies behind the picture in its file and is not carried over, and what of each to remove: gain maps of
# Ultra HDR, of Adobe's and of Apple's kind, the directory of such parts, the film of a motion photo.
NOTE = "http://ns.adobe.com/xmp/note/"
PARTS = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": "",
    "http://ns.apple.com/HDRGainMap/1.0/": "",
    "http://ns.google.com/photos/1.0/container/": "",
    "http://ns.google.com/photos/1.0/container/item/": "",
    "http://ns.google.com/photos/1.0/camera/": "MicroVideo|MotionPhoto",
}


def upright(packet: bytes) -> bytes:
    """The packet with its orientation, written as an attribute or as an element, set to 1."""
    return re.sub(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[2-8]""", rb"\g<1>1", packet)


def alone(packet: bytes, *, extended: bool) -> bytes:
    """The packet without mention of other parts of its file; `extended`: the extension that it names goes with it.

    Raises:
        ValueError: if there is such a mention in a packet that is no XML.
    """
    parts = PARTS if extended else PARTS | {NOTE: "HasExtendedXMP"}
    if not any(namespace.encode() in packet for namespace in parts):
        return packet
    try:
        document = minidom.parseString(packet.rstrip(b"\0"))
    except (ExpatError, ValueError, LookupError) as error:
        raise ValueError("XMP that is no XML") from error

    def goes(node: minidom.Node) -> bool:
        names = parts.get(node.namespaceURI or "")
        return names is not None and re.match(names, node.localName or "") is not None

    def prune(element: minidom.Element) -> None:
        for attribute in [value for value in element.attributes.values() if goes(value)]:
            element.removeAttributeNode(attribute)
        for child in list(element.childNodes):
            if child.nodeType == child.ELEMENT_NODE:
                if goes(child):
                    element.removeChild(child)
                else:
                    prune(child)

    for root in document.childNodes:
        if root.nodeType == root.ELEMENT_NODE:
            prune(root)
    return b"".join(node.toxml("utf-8") for node in document.childNodes)
