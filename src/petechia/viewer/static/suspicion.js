// Says in sentences what the screen found. Class names and warnings are data: the page shows them as text.

const LIMITS = "This does not prove that the image is clean. The screen finds a small part of the image that makes the model report"
  + " a class. It does not find triggers that cover much of the image or are faint everywhere, triggers that make the model miss"
  + " a class, triggers that this network does not respond to, or triggers of attackers who train against such a screen.";

const number = (value) => value.toFixed(2).replace("-", "−");
const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

function reason({ flagged, pixels, box: { top, left, height, width } }, title) {
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
