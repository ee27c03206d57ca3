package pypool

var securityFaults []fault
