package pypool

var sessionFaults []fault
