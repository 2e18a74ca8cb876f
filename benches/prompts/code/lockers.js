const lockers = new Map();

function openLocker(hall, number, code) {
  const door = `${hall}-${number}`;
  if (!lockers.has(door)) {
    return { open: false, reason: "no such locker" };
  }
  if (lockers.get(door) !== code) {
    return { open: false, reason: "wrong code" };
  }
  return { open: true, door: door };
}

function rentLocker(hall, number, code) {
  const door = `${hall}-${number}`;
  lockers.set(door, code);
  return { rented: true, door: door };
}
