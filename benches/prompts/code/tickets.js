const seats = new Map();

function reserve(train, seat, passenger) {
  const key = `${train}/${seat}`;
  if (seats.has(key)) {
    return { ok: false, reason: "seat is taken" };
  }
  seats.set(key, passenger);
  return { ok: true, ticket: `${key}/${passenger}` };
}

function cancel(train, seat, passenger) {
  const key = `${train}/${seat}`;
  if (seats.get(key) !== passenger) {
    return { ok: false, reason: "not your seat" };
  }
  seats.delete(key);
  return { ok: true };
}
