"""GeoJSON of what was found in an image that lies on the ground, in the image's own coordinate system, which it names
as GDAL and QGIS read it."""

from collections.abc import Sequence
from typing import Any

from openmae.data.annotations.tracing import Area, Ring, signed_area
from openmae.data.formats.geotiff import Placed

POLYGONS = "polygons"
"""The folder."""


def collection(features: Sequence[dict[str, Any]], where: Placed) -> dict[str, Any]:
    """All of an image."""
    system = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{where.epsg}"}}
    crs = {} if where.epsg is None else {"crs": system}
    return {"type": "FeatureCollection", **crs, "features": features}


def feature(properties: dict[str, Any], areas: Sequence[Area], where: Placed) -> dict[str, Any]:
    """One thing of one or several areas, along the edges of its pixels."""
    polygons = [_polygon(area, where) for area in areas]
    one = {"type": "Polygon", "coordinates": polygons[0]}
    geometry = one if len(polygons) == 1 else {"type": "MultiPolygon", "coordinates": polygons}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def _polygon(area: Area, where: Placed) -> list[Any]:
    rings = [_turned(where.on_ground(ring), is_hole=number > 0) for number, ring in enumerate(area.rings)]
    return [ring.tolist() for ring in rings]


def _turned(ring: Ring, is_hole: bool) -> Ring:
    """Counterclockwise, holes clockwise (RFC 7946, 3.1.6)."""
    return ring if (signed_area(ring) > 0) is not is_hole else ring[::-1]
