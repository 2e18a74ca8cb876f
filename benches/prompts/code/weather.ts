interface Reading {
  station: string;
  degrees: number;
  wind: number;
}

function describe(reading: Reading): string {
  if (reading.wind > 60) {
    return `${reading.station}: storm, stay inside`;
  }
  if (reading.degrees < 0) {
    return `${reading.station}: frost, mind the steps`;
  }
  if (reading.degrees > 30) {
    return `${reading.station}: heat, drink water`;
  }
  return `${reading.station}: nothing to report`;
}
