package pypool

var hostFaults []fault
