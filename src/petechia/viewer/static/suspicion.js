// Says in sentences what the screen found. Class names and warnings are data: the page shows them as text.

const LIMITS = "This does not prove that the image is clean. The screen does not find triggers that make the model miss a class,"
  + " triggers that this network hardly responds to, or triggers of attackers who train against such a screen.";

const number = (value) => value.toFixed(2).replace("-", "−");
const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

function reason({ flagged, whole, pixels, box: { top, left, height, width } }, title) {
  if (whole) return `Fine structure all over the image seems to make the model report ${title}, as a pattern, wave or warp does.`;
  if (!pixels) return "No small part of the image stands out.";
  const place = `${height} × ${width} pixels at row ${top}, column ${left}`;
  return flagged ? `A small part of the image (framed) seems to make the model report ${title}, as a trigger does: ${place}.`
    : `The most suspicious part is in the dashed frame, for ${title}: ${place}.`;
}

// The sentences, with the verdict first.
export function words(found, title) {
  const [verdict, side] = found.flagged ? ["Suspicious", "above"] : ["Not suspicious", "below"];
  const rate = `a false-positive rate of ${percent(found.rate)}`;
  return [
    `${verdict}: the suspicion of ${number(found.suspicion)} is ${side} the threshold of ${number(found.threshold)}.`,
    reason(found, title),
    `The threshold was set on ${found.images} clean images for ${rate}: that share of clean images is flagged too.`,
    ...found.warnings, ...found.flagged ? [] : [LIMITS],
  ];
}
